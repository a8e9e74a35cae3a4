"""The local cluster: real model servers as supervised processes on this machine."""
