"""The front desk: HTTP in, arrays to the dispatcher, answers back. Never imports TensorFlow."""
