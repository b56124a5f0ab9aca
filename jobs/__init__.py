"""The domain of Retouch: records, states, the plan, and what keeps them. It imports no sibling package."""
