"""Learning from a stream: the learner, its trials and promotions, and the records it reads."""
