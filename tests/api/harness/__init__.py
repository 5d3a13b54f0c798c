"""What the tests stand on: a running emulator, raw HTTP to it, a tiny template, the leak audit."""
