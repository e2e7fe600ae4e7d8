"""From rules to the kernel: which packets no rule can match, as C for the XDP program."""
