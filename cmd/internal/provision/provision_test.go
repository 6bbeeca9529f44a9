package provision

import (
	"crypto/ecdsa"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/keyfile"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/builtin"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
)

var east = spiffeid.RequireTrustDomainFromString("east.example.org")

// files are all below a folder: their contents and modes.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		out[path] = info.Mode().String() + string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A fleet's beginning, twice: the second time changes nothing. Then what was made is
// what nodes verify.
func TestAFleetBegins(t *testing.T) {
	dir := t.TempDir()
	global, region := filepath.Join(dir, "global"), filepath.Join(dir, "east")
	var key *ecdsa.PrivateKey
	var draft string
	begin := func() map[string]string {
		var err error
		if key, err = Global(global); err != nil {
			t.Fatal(err)
		}
		if draft, err = Region(region, "east", east, ValidFor(time.Hour)); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(CopyPolicy(policy.Global, filepath.Join(global, PolicyDir)), CopyPolicy(policy.Regional, filepath.Join(region, PolicyDir))); err != nil {
			t.Fatal(err)
		}
		return files(t, dir)
	}
	first := begin()
	if err := os.WriteFile(filepath.Join(region, PolicyDir, "data.json"), []byte(`{"services":{}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	first[filepath.Join(region, PolicyDir, "data.json")] = files(t, dir)[filepath.Join(region, PolicyDir, "data.json")]
	if again := begin(); !reflect.DeepEqual(again, first) {
		t.Error("beginning again changed a file")
	}
	for _, private := range []string{filepath.Join(global, GlobalKey), filepath.Join(region, PolicyKey), filepath.Join(region, IssuerDir, "svid-root.pem"), filepath.Join(region, AuthorityDir, "authority.key")} {
		if info, err := os.Stat(private); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", private, info, err)
		}
	}

	b, err := os.ReadFile(draft)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := trust.Add(b, key)
	if err != nil {
		t.Fatal(err)
	}
	r, err := trust.Verify(signed, []*ecdsa.PublicKey{&key.PublicKey}, 1, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	delegation, err := Delegate(key, r, builtin.Regional("east").Delegation, ValidFor(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	rules, err := keyfile.Open(filepath.Join(region, PolicyKey))
	if err != nil {
		t.Fatal(err)
	}
	content, err := bundle.Pack(filepath.Join(region, PolicyDir))
	if err != nil {
		t.Fatal(err)
	}
	file, err := Policy{Level: policy.Regional, Scope: east.Name(), Version: 3, Author: "spiffe://east.example.org/operator", Content: content, Delegations: [][]byte{delegation}}.Sign(rules, ValidFor(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	statement, content, err := bundle.Split(file)
	if err != nil {
		t.Fatal(err)
	}
	v, err := bundle.Verify(statement, content, []*ecdsa.PublicKey{&key.PublicKey}, time.Now())
	if err != nil || v.Record.Version != 3 || len(v.Ceiling.Regions) != 1 || v.Ceiling.Regions[0] != "east" {
		t.Errorf("%+v, %v", v, err)
	}
	if level := v.Level(); policy.Check(level) != nil {
		t.Errorf("the shipped policy does not compile: %v", policy.Check(level))
	}
}

// A region's folder belongs to one trust domain.
func TestRegionOfAnotherTrustDomain(t *testing.T) {
	dir := t.TempDir()
	if _, err := Region(dir, "east", east, ValidFor(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if draft, err := Region(dir, "west", spiffeid.RequireTrustDomainFromString("west.example.org"), ValidFor(time.Hour)); !errors.Is(err, ErrOtherRegion) {
		t.Errorf("east's keys became west's: %s, %v", draft, err)
	}
}

func TestWriteFileNamesTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "no", "such", "folder")
	if err := WriteFile(path, nil, 0o600); !errors.Is(err, fs.ErrNotExist) || err.Error() != "write "+path+": no such file or directory" {
		t.Errorf("%v", err)
	}
}
