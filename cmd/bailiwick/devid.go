package main

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/output"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/provision"
)

// devidTimeout bounds the making and certifying of a key in a slow TPM.
const devidTimeout = time.Minute

func devidCommand(o *options) *cobra.Command {
	c := &cobra.Command{Use: "devid", Short: "This machine's TPM identity for others than us"}
	var dir string
	export := &cobra.Command{
		Use:   "export --spire DIR",
		Short: "Write what a stock spire-agent needs to attest with this node's TPM",
		Long: `Export makes a key in this node's TPM, has the region's issuer certify it
(issuer.devid_ca), and writes into DIR:

  devid.crt.pem     the certificate, five years
  devid.pub.blob    the key's public part
  devid.priv.blob   its private part, of use to this TPM only
  devid-ca.pem      the authority that certified it
  spire-agent.conf  the tpm_devid plugin of a spire-agent on this machine
  spire-server.conf the same plugin of the spire-server that is to believe it

Copy the blocks into the two configurations. spire-server also wants the roots of the
TPM's maker. Every export makes another key; replace the files before they end.`,
		Example: `  bailiwick devid export --spire /etc/spire/devid`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dir == "" {
				return &usageError{errors.New("--spire DIR is required")}
			}
			return devidExport(cmd.Context(), o, dir)
		},
	}
	export.Flags().StringVar(&dir, "spire", "", "folder for the files of a stock spire-agent (required)")
	_ = export.MarkFlagDirname("spire")
	c.AddCommand(export)
	return c
}

func devidExport(ctx context.Context, o *options, dir string) error {
	dir, err := filepath.Abs(dir) // the blocks are to be right wherever the agent starts
	if err != nil {
		return err
	}
	t, err := o.one()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, devidTimeout)
	defer cancel()
	r, err := t.ExportDevID(ctx, &controlv1.ExportDevIDRequest{})
	if err != nil {
		return t.reached(err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for name, b := range map[string][]byte{
		"devid-ca.pem":      pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Authority}),
		"spire-agent.conf":  agentBlock(dir, r.Device),
		"spire-server.conf": serverBlock(dir),
	} {
		if err := provision.WriteFile(filepath.Join(dir, name), b, fileMode); err != nil {
			return err
		}
	}
	if err := tpm.WriteDevID(dir, r.Public, r.Private, r.Chain); err != nil {
		return err
	}
	item, err := json.Marshal(map[string]string{"folder": dir, "device": r.Device})
	if err != nil {
		return err
	}
	doc := document(r.View)
	doc.Items = append(doc.Items, item)
	return output.Write(o.out, o.format, doc, func(w io.Writer) {
		fmt.Fprintf(w, "%s\nDevID of %s in %s\n", headline(r.View), r.View.ViewOf, dir)
		fmt.Fprintln(w, "copy the blocks in spire-agent.conf and spire-server.conf into the two configurations")
	})
}

// agentBlock is the plugin's part of a stock spire-agent's configuration.
func agentBlock(dir, device string) []byte {
	at := "# tpm_device_path: this node reaches its TPM in a way that spire-agent cannot"
	if device != "" {
		at = "tpm_device_path = " + strconv.Quote(device)
	}
	return fmt.Appendf(nil, `NodeAttestor "tpm_devid" {
  plugin_data {
    devid_cert_path = %q
    devid_pub_path = %q
    devid_priv_path = %q
    %s
  }
}
`, filepath.Join(dir, "devid.crt.pem"), filepath.Join(dir, "devid.pub.blob"), filepath.Join(dir, "devid.priv.blob"), at)
}

// serverBlock is the same of a stock spire-server's.
func serverBlock(dir string) []byte {
	return fmt.Appendf(nil, `NodeAttestor "tpm_devid" {
  plugin_data {
    devid_ca_path = %q
    endorsement_ca_path = "/etc/spire/tpm-makers.pem" # roots of the TPM's maker: yours to choose
  }
}
`, filepath.Join(dir, "devid-ca.pem"))
}
