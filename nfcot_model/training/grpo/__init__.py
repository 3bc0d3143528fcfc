"""Policy gradient on thoughts: GRPO with the execution verdict as reward."""
