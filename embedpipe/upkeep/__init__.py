"""Care of working stores: mend what is damaged, drop what is dead, erase what must be forgotten. No torch, no DVC."""
