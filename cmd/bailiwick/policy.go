package main

import (
	"github.com/spf13/cobra"
)

func policyCommand(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:   "policy",
		Short: "Write, check and test policy, and bring it to the fleet",
		Long: `Policy is written in a working tree: a folder with a folder for each level (global,
regional, local) and tree.json, which says for which region it is. The folder of one
level is a tree as well. The verbs that take DIR read the tree in this folder where
none is given. They work offline and ask nobody, but for publish and rollback, which
hand what they signed to a node.`,
	}
	c.AddCommand(
		policyInitCommand(o),
		policyFormatCommand(o),
		policyCheckCommand(o),
		policyTestCommand(o),
		policyTryCommand(o),
		policyDiffCommand(o),
		policyBenchCommand(o),
		policyReachCommand(o),
		policyShadowCommand(o),
		policyReplayCommand(o),
		policyPublishCommand(o),
		policyRollbackCommand(o),
	)
	return c
}

// treeDir is the tree that a verb was given, or this folder.
func treeDir(args []string) string {
	if len(args) == 0 {
		return "."
	}
	return args[0]
}
