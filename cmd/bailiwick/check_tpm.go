package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/explain"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/issuing"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/output"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/tpmcheck"
)

func checkTPMCommand(o *options) *cobra.Command {
	var path string
	c := &cobra.Command{
		Use:   "tpm [DEVICE]",
		Short: "Look for what would keep a TPM (/dev/tpmrm0, unix:/path, tcp:host:port) from attesting",
		Long: `Look at a TPM for all that would keep a node from attesting by it, and say what mends
each. With --config, device, boot log and keys are those of a node's configuration,
and where it configures an issuer, the endorsement key is judged as that will.

Nothing in the TPM is changed. One that is used without the kernel's resource manager
(/dev/tpm0) is rid of what a dead process left in its slots.

Exit code 1: something must be mended. 5: something should be looked at.`,
		Example: `  bailiwick check tpm
  bailiwick check tpm --config /etc/bailiwick/bailiwick.yaml -o json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			s := tpmcheck.Subject{Device: config.DefaultDevice, BootLog: config.DefaultBootLog}
			if path != "" {
				var err error
				if s, err = subjectOf(path); err != nil {
					return err
				}
			}
			if len(args) == 1 {
				s.Device = args[0]
			}
			return checkTPM(o, s)
		},
	}
	c.Flags().StringVar(&path, "config", "", "a node's configuration")
	return c
}

// subjectOf is what a configuration says of its machine.
func subjectOf(path string) (tpmcheck.Subject, error) {
	c, err := config.Load(path)
	if err != nil {
		return tpmcheck.Subject{}, err
	}
	s := tpmcheck.Subject{Device: c.TPM.Device, BootLog: string(c.TPM.BootLog), Keys: filepath.Join(string(c.State), "keys"), Node: c.Node}
	if c.Issuer == nil {
		return s, nil
	}
	known, err := issuing.EKVerifier(*c.Issuer)
	s.Issuer = &known
	return s, err
}

func checkTPM(o *options, s tpmcheck.Subject) error {
	findings, failure := tpmcheck.Run(s, time.Now())
	doc := output.Document{AsOf: time.Now().UTC()}
	if !s.Node.IsZero() {
		doc.ViewOf = s.Node.String()
	}
	var rows [][]string
	for _, f := range findings {
		b, err := json.Marshal(f)
		if err != nil {
			return err
		}
		doc.Items = append(doc.Items, b)
		rows = append(rows, []string{f.Check, string(f.Status), f.Found})
	}
	err := output.Write(o.out, o.format, doc, func(w io.Writer) {
		output.Columns(w, "CHECK STATUS FOUND", rows)
		for _, f := range findings {
			if f.Fix != "" {
				fmt.Fprintf(w, "%s: %s\n", f.Check, f.Fix)
			}
		}
	})
	if err = errors.Join(err, failure); err != nil {
		return err
	}
	switch tpmcheck.Worst(findings) {
	case tpmcheck.Fail:
		return &exitCode{explain.Failed}
	case tpmcheck.Warn:
		return &exitCode{explain.Degraded}
	}
	return nil
}
