"""Are thoughts used? Edits on thoughts, what they do to answers, and a verdict."""
