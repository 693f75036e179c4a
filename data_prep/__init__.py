"""Private documents in, train, val and test rows out, with a split that is proved not to leak."""
