"""One suite that every cluster passes; a class of tests for each runs it."""
