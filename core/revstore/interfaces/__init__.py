"""The four contracts that plugins implement, and the ports of a shell."""
