"""battctl, the command line of battd. One file a command; `main.py` puts them together."""
