"""Regular expressions: parse PCRE syntax into a tree, analyse the tree, and write it for the engines."""
