"""Other ways to run the network's passes, behind the same loop."""
