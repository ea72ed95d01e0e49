"""The core loops: generators of events that know nothing of terminals."""
