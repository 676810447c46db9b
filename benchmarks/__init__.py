"""Every speed that is claimed, as a command."""
