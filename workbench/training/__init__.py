"""The rank's side of a run: the loop, what it records, how it is steered. It knows a journal and an inbox, not who is behind them."""
