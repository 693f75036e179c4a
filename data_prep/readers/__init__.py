"""One file a format: records, lazily, each with the place it came from."""
