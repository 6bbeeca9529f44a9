package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
)

func checkCommand(o *options) *cobra.Command {
	c := &cobra.Command{Use: "check", Short: "Look for trouble before it happens"}
	c.AddCommand(
		&cobra.Command{
			Use:   "config FILE",
			Short: "Read a node's configuration and report every mistake at once",
			Args:  cobra.ExactArgs(1),
			RunE: func(_ *cobra.Command, args []string) error {
				c, err := config.Load(args[0])
				if err != nil {
					return err
				}
				if c.Issuer != nil {
					for _, path := range c.Issuer.Entries {
						if _, err := config.LoadEntries(string(path), c.Node.TrustDomain()); err != nil {
							return err
						}
					}
				}
				return o.tell(map[string]any{"file": args[0], "node": c.Node.String(), "mistakes": 0},
					fmt.Sprintf("%s: no mistakes; it configures %s", args[0], c.Node))
			},
		},
		&cobra.Command{
			Use:   "tpm [DEVICE]",
			Short: "Open a TPM (/dev/tpmrm0, unix:/path, tcp:host:port) and read its counters",
			Args:  cobra.MaximumNArgs(1),
			RunE: func(_ *cobra.Command, args []string) error {
				device := "/dev/tpmrm0"
				if len(args) == 1 {
					device = args[0]
				}
				return checkTPM(o, device)
			},
		},
	)
	return c
}

func checkTPM(o *options, device string) error {
	d, err := tpm.Open(device)
	if err != nil {
		return err
	}
	defer d.Close()
	n, err := d.Counters()
	if err != nil {
		return err
	}
	return o.tell(map[string]any{"device": device, "starts": n.Starts, "epoch": n.Epoch},
		fmt.Sprintf("%s answers; starts %d, epoch %d", device, n.Starts, n.Epoch))
}
