"""How good search is: talk written by hand, what people ask about it, and judgements of what answers them."""
