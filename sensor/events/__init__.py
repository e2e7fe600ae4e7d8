"""Events out: each match of the evidence as a line of JSON, to files, syslog servers and sockets."""
