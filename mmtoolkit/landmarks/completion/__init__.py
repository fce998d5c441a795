"""From 68 human points to 106, with views from other sides."""
