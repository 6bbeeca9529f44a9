package dev

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/tpm/maker"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
)

// newFleet lays a fleet out in a folder whose name YAML has to quote.
func newFleet(t *testing.T) *Fleet {
	t.Helper()
	root, err := os.MkdirTemp("", "bw")
	if err != nil {
		t.Fatal(err)
	}
	project := filepath.Join(root, `a: "b" #c`)
	if err := os.Mkdir(project, 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := open(project)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(f.RunDir); os.RemoveAll(root) })
	return f
}

func provisionTest(t *testing.T, f *Fleet) []*maker.SoftTPM {
	t.Helper()
	if err := f.addresses(); err != nil {
		t.Fatal(err)
	}
	tpms, err := equip(t.Context(), f)
	t.Cleanup(func() {
		for _, soft := range tpms {
			soft.Stop()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return tpms
}

func TestProvision(t *testing.T) {
	f := newFleet(t)
	if tpms := provisionTest(t, f); len(tpms) != len(f.Nodes) {
		t.Errorf("%d TPMs for %d nodes", len(tpms), len(f.Nodes))
	}
	signed := contents(t, f, "global", "regions", "maker")
	for _, n := range f.Nodes {
		checkNode(t, f, n)
	}
	checkEntries(t, f)

	again, err := Find(filepath.Join(f.Dir, "nodes"))
	if err != nil || !reflect.DeepEqual(again, f) {
		t.Errorf("found %+v, %v, want %+v", again, err, f)
	}
	provisionTest(t, again)
	if !reflect.DeepEqual(contents(t, f, "global", "regions", "maker"), signed) {
		t.Error("provisioning again changed keys or what they signed")
	}
}

// contents are all files below some folders of .dev.
func contents(t *testing.T, f *Fleet, folders ...string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, name := range folders {
		err := filepath.WalkDir(filepath.Join(f.Dir, name), func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			b, err := os.ReadFile(path)
			out[path] = string(b)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// checkNode reads a node's file as the node does, and verifies what it names.
func checkNode(t *testing.T, f *Fleet, n Node) {
	t.Helper()
	c, err := config.Load(n.Config)
	if err != nil {
		t.Fatal(err)
	}
	if c.Node != n.ID || string(c.State) != n.StateDir() || string(c.Control.Socket) != n.ControlSocket || c.Mesh.Listen != n.Mesh || c.TPM.Mode != "required" {
		t.Errorf("%s: %+v", n.Name, c)
	}
	if n.issues() != (c.Issuer != nil) || n.First != (c.Authority != nil) || n.First != (len(c.Mesh.Gateways) == 1) {
		t.Errorf("%s: roles are not those of first=%v: %+v", n.Name, n.First, c)
	}
	if _, err := os.Stat(string(c.TPM.BootLog)); err != nil {
		t.Error(err)
	}
	global := publicKey(t, string(c.Trust.GlobalKeys[0]))
	set, err := trust.NewSet([]*ecdsa.PublicKey{global}, 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range c.Trust.Records {
		b, err := os.ReadFile(string(path))
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := set.Apply(b, time.Now()); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, ok := set.Record(n.ID.TrustDomain()); !ok {
		t.Errorf("%s: no trust record of its own region", n.Name)
	}
	engine := policy.New(policy.Config{Require: []string{policy.Global, policy.Regional}})
	if err := engine.Activate(level(t, c.Policy.Global, global), level(t, c.Policy.Region, global)); err != nil {
		t.Errorf("%s: %v", n.Name, err)
	}
}

func level(t *testing.T, path config.Path, global *ecdsa.PublicKey) policy.Level {
	t.Helper()
	b, err := os.ReadFile(string(path))
	if err != nil {
		t.Fatal(err)
	}
	signed, content, err := bundle.Split(b)
	if err != nil {
		t.Fatal(err)
	}
	v, err := bundle.Verify(signed, content, []*ecdsa.PublicKey{global}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return v.Level()
}

func checkEntries(t *testing.T, f *Fleet) {
	t.Helper()
	for _, r := range f.Regions {
		td := f.first(r.Label).ID.TrustDomain()
		entries, err := config.LoadEntries(f.entriesFile(r.Label), td)
		if err != nil {
			t.Fatal(err)
		}
		machines := map[config.Hash]bool{}
		for _, e := range entries {
			if !e.EK.IsZero() {
				machines[e.EK] = true
			}
		}
		want := 0
		for _, n := range f.Nodes {
			if n.Region == r.Label {
				want++
			}
		}
		if len(machines) != want {
			t.Errorf("%s: %d machines in the entries, want %d: %+v", r.Label, len(machines), want, entries)
		}
	}
}

func publicKey(t *testing.T, path string) *ecdsa.PublicKey {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	if block == nil {
		t.Fatalf("%s: no PEM", path)
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return key.(*ecdsa.PublicKey)
}

func TestMovedFleet(t *testing.T) {
	f := newFleet(t)
	project := filepath.Dir(f.Dir)
	moved := project + " moved"
	if err := os.Rename(project, moved); err != nil {
		t.Fatal(err)
	}
	if _, err := Find(moved); !errors.Is(err, ErrMoved) {
		t.Errorf("a moved fleet: %v", err)
	}
	if err := os.WriteFile(filepath.Join(moved, folder, "fleet.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Find(moved); !errors.Is(err, ErrDamaged) {
		t.Errorf("a damaged fleet: %v", err)
	}
	if _, err := Find(filepath.Dir(moved)); !errors.Is(err, ErrNoFleet) {
		t.Errorf("no fleet: %v", err)
	}
}
