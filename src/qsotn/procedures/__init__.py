"""The procedures: the paper's figures as ladders of declared steps."""
