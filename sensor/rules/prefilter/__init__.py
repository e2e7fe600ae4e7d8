"""The prefilter's plan: which packets no rule can match, written as C for the XDP program."""
