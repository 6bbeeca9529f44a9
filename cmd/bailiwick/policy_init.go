package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/identity/trust"
	"github.com/bailiwick-mesh/bailiwick/policy/builtin"
	"github.com/bailiwick-mesh/bailiwick/policy/workbench"
)

func policyInitCommand(o *options) *cobra.Command {
	var example, region, domain string
	c := &cobra.Command{
		Use:   "init DIR",
		Short: "Make a working tree with rules, data, tests and sample inputs",
		Long: `Init writes a working tree into a folder that is empty or not there. Its tests pass
as they are. The examples are ` + strings.Join(builtin.Examples, ", ") + `.`,
		Example: `  bailiwick policy init east-policy --region east --trust-domain east.example.org
  bailiwick policy init clinic --example residency`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			switch td, err := spiffeid.TrustDomainFromString(domain); {
			case !slices.Contains(builtin.Examples, example):
				return &usageError{fmt.Errorf("--example %s: want one of %s", example, strings.Join(builtin.Examples, ", "))}
			case !trust.IsLabel(region):
				return &usageError{fmt.Errorf("--region %s: want a label of a-z, 0-9 and inner hyphens, up to 32", region)}
			case domain == "":
				domain = region + ".example.org"
			case err != nil || td.Name() != domain:
				return &usageError{errors.Join(fmt.Errorf("--trust-domain %s: want a trust domain such as east.example.org", domain), err)}
			}
			written, err := workbench.Init(args[0], example, region, domain)
			if err != nil {
				return err
			}
			return o.tell(map[string]any{"dir": args[0], "example": example, "region": region, "trust_domain": domain, "files": written},
				append(written, "", "next: bailiwick policy test "+args[0])...)
		},
	}
	c.Flags().StringVar(&example, "example", builtin.Examples[0], "what to begin from")
	c.Flags().StringVar(&region, "region", "east", "label of the region the policy is for")
	c.Flags().StringVar(&domain, "trust-domain", "", "trust domain of the region (default: REGION.example.org)")
	complete(c, "example", builtin.Examples...)
	return c
}
