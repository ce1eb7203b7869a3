"""From a frozen plan to the processes that train it. Knows how they are started; nothing of what they train."""
