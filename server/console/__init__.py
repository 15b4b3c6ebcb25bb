"""What the command line does: tokens out of the local data, streaming a file, searching, checking the installation."""
