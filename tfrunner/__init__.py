"""tfrunner: answers TensorFlow models fast from Python."""
