"""The stack on one machine: embedded servers, processes and their supervision."""
