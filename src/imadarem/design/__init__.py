"""New molecules around given fragments, and towards a score: the chemist's two questions."""
