"""The steps of the pipeline, one module each: read the sections they need, call one library function.

Stages and the command line call the same steps. A step imports only what it runs, because what it imports
is what DVC reruns it for.
"""
