"""Regular expressions: PCRE syntax to a tree, the tree to text for the engines, and facts read off it."""
