"""The worker processes of tfrunner: each holds one loaded model on one device."""
