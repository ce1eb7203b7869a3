"""One file a task; each is found through its entry point like anybody's."""
