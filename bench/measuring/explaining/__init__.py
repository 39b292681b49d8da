"""How a step is explained: recorded as a tape of operators, replayed, and held against ceilings."""
