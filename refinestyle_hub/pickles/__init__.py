"""Reading foreign files that hold a pickle, without executing anything in them. No other folder reads pickles."""
