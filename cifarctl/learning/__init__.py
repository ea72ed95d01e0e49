"""What learns from a stream: the learner, its trials and promotions, and what it reads."""
