"""References and differences (P6, P7) beside other tools: pairs with truth, rows, judgement."""
