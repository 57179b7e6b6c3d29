"""What a command does from end to end; shared by the command line and the scripts at the root."""
