"""Events out: each match as a line of JSON, sent to files, syslog servers and sockets."""
