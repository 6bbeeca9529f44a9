package interop

import (
	"path/filepath"
	"testing"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// helped has spiffe-helper write the files of a workload from a Workload API, and
// verifies them.
func helped(t *testing.T, socket string, want spiffeid.ID) {
	t.Helper()
	dir := folder(t)
	conf := write(t, dir, "helper.conf", `agent_address = %q
daemon_mode = false
cert_dir = %q
svid_file_name = "svid.pem"
svid_key_file_name = "svid.key"
svid_bundle_file_name = "bundle.pem"
`, socket, dir)
	run(t, binary(t, "spiffe-helper"), "-config", conf)
	svid, err := x509svid.Load(filepath.Join(dir, "svid.pem"), filepath.Join(dir, "svid.key"))
	must(t, err)
	roots, err := x509bundle.Load(td, filepath.Join(dir, "bundle.pem"))
	must(t, err)
	if id, _, err := x509svid.Verify(svid.Certificates, roots); err != nil || id != want {
		t.Errorf("spiffe-helper wrote an SVID of %s, want %s: %v", id, want, err)
	}
}
