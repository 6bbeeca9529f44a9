package interop

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/bailiwick-mesh/bailiwick/identity/spire"
)

// filesCell: one node is the issuer of itself, of a stock spire-agent and of our client
// with a TPM, all by entries of a file. Then it is killed and comes back, and what is
// added to the file acts without a restart.
func filesCell(t *testing.T, p *pki) {
	joinToken, chip := strings.Repeat("n2", 16), newChip(t, p)
	stock := []evidence{byPoP(t, p, newKey(t)), byDevID(t, nil, p)}
	token := sha256.Sum256([]byte(joinToken))
	n := newIssuerWith(t, p, setup{chip: newChip(t, p), lifetime: 60, entries: fmt.Sprintf(`  - { id: "%[1]s/node/n2", token: %[2]s, class: unattested }
  - { id: "%[1]s/node/n3", ek: %[3]s }
  - { id: "%[1]s/workload/n1", node: "%[1]s/node/n1", selectors: [%[4]q], federates_with: [west.dev.example] }
  - { id: "%[1]s/workload/n2", node: "%[1]s/node/n2", selectors: [%[4]q], lifetime: 60s, federates_with: [west.dev.example] }
  - { id: "%[1]s/workload/n3", node: "%[1]s/node/n3", selectors: [%[4]q] }
  - { id: "%[1]s/workload/s0", parent: %[5]q, selectors: [%[4]q], dns_names: [s0.example], hint: first }
  - { id: "%[1]s/workload/s1", parent: %[6]q, selectors: [%[4]q] }
`, td.IDString(), hex.EncodeToString(token[:]), chip.ekHash(), self, stock[0].agent, stock[1].agent)})
	name := func(path string) spiffeid.ID { return spiffeid.RequireFromPath(td, path) }

	// Its own workload, by the Workload API of the node itself.
	api, err := workloadapi.New(t.Context(), workloadapi.WithAddr("unix://"+n.workload))
	must(t, err)
	defer api.Close()
	var first *x509svid.SVID
	eventually(t, "the node serves its workload", func() error {
		if !n.proc.running() {
			t.Fatalf("the node ended: %s", n.proc.tail(10))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		first, err = api.FetchX509SVID(ctx)
		return err
	})
	if first.ID != name("/workload/n1") {
		t.Errorf("the node's workload is %s", first.ID)
	}

	helped(t, n.workload, first.ID)

	// A stock agent.
	a := newAgent(t, n, evidence{
		agent:  agentID("join_token", hex.EncodeToString(token[:])),
		plugin: `NodeAttestor "join_token" { plugin_data {} }`, extra: fmt.Sprintf("join_token = %q", joinToken),
	})
	svid := a.svid(t, name("/workload/n2"), nil)
	a.jwt(t, svid.ID)
	helped(t, a.socket, svid.ID)
	sameWorkloadAPI(t, n.workload, a.socket)
	sameSecrets(t, n.workload, a.socket)

	for i, e := range stock {
		newAgent(t, n, e).svid(t, name(fmt.Sprintf("/workload/s%d", i)), nil)
	}

	// Our client, with a TPM and everything a node asks for.
	cfg := n.config(t)
	c := n3(t, cfg, chip)
	enrolled, err := c.Enrol(t.Context(), publicKey(t, chip.feed), 0, nil, 0)
	must(t, err)
	if enrolled.Node != name("/node/n3") {
		t.Errorf("enrolled as %s", enrolled.Node)
	}
	c.Close()

	n.killed(t, func() { a.svid(t, svid.ID, nil) }) // it serves what it has
	svid = a.svid(t, svid.ID, another(svid))
	a.jwt(t, svid.ID)
	n3(t, cfg, chip).Close()

	file, err := os.OpenFile(filepath.Join(n.dir, "entries.yaml"), os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	_, err = fmt.Fprintf(file, `  - { id: "%[1]s/workload/later", parent: "%[1]s%[2]s", selectors: [%[3]q] }
`, td.IDString(), a.e.agent.Path(), self)
	must(t, errors.Join(err, file.Close()))
	must(t, n.proc.cmd.Process.Signal(syscall.SIGHUP))
	a.svid(t, name("/workload/later"), nil)
}

// n3 attests until the issuer takes it.
func n3(t *testing.T, cfg spire.Config, chip *chip) (c *spire.Client) {
	t.Helper()
	eventually(t, "our client attests to the node", func() error {
		a, err := spire.Attest(t.Context(), cfg, spire.TPM{Keys: chip.keys, FeedKey: chip.feed, BootLog: chip.boot}, chip.keys.Node())
		if err != nil {
			return err
		}
		c, err = spire.Dial(cfg, a.SVID)
		return err
	})
	return c
}

func publicKey(t *testing.T, der []byte) *ecdsa.PublicKey {
	t.Helper()
	key, err := x509.ParsePKIXPublicKey(der)
	must(t, err)
	return key.(*ecdsa.PublicKey)
}
