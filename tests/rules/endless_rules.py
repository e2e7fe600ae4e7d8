"""Short expressions that stand for endless work, or for more memory than there is."""

ENDLESS = (
    "(?=(?:(?:(?:){0,32}){0,32}){0,32}a)ab",
    "(?<=(?:(?:(?:(?:a{0}){99}){99}){99}){99})b",
    "(?:(?:(?:a{1000}){1000}){1000}){1000}",
)
