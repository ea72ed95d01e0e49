"""cifarctl: online machine learning on CIFAR-10 image streams over Apache Kafka."""

__version__ = "0.1.0"
