"""Compare all arms: leaderboard, intervals, headline, curves, and the one place that opens the test."""
