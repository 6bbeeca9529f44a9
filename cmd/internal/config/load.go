package config

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/bailiwick-mesh/bailiwick/identity"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// DevSuffix ends the trust domains in which dev features may be switched on.
const DevSuffix = ".dev.example"

// The TPM of a machine, and where its kernel shows the firmware's log.
const (
	DefaultDevice  = "/dev/tpmrm0"
	DefaultBootLog = "/sys/kernel/security/tpm0/binary_bios_measurements"
)

// maxSocketPath is Linux's bound on a unix socket's path (sun_path), less the
// final zero byte.
const maxSocketPath = 107

var label = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// An Override is what the command line says instead of the file.
type Override func(*Config)

// Load reads, overrides, checks and completes one node's file. The error is a
// *Mistakes with everything wrong in it, or wraps ErrUnreadable.
func Load(path string, overrides ...Override) (Config, error) {
	b, abs, err := read(path)
	if err != nil {
		return Config{}, err
	}
	return Parse(b, abs, overrides...)
}

// Parse is Load for bytes; path names the file in mistakes and is where
// relative paths begin.
func Parse(b []byte, path string, overrides ...Override) (Config, error) {
	var c Config
	d := decode(b, filepath.Dir(path), &c)
	for _, override := range overrides {
		override(&c)
	}
	if d.readable {
		c.check(d)
	}
	if len(d.found) > 0 {
		return Config{}, d.mistakes(path)
	}
	return c, nil
}

// LoadEntries reads one file of registration entries.
func LoadEntries(path string, td spiffeid.TrustDomain) ([]Entry, error) {
	entries, _, err := EntriesAt(path, td)
	return entries, err
}

// EntriesAt is LoadEntries for those who still have something to say of an entry: it
// also returns the line at which each begins.
func EntriesAt(path string, td spiffeid.TrustDomain) (entries []Entry, lines []int, err error) {
	b, abs, err := read(path)
	if err != nil {
		return nil, nil, err
	}
	var file struct {
		Entries []Entry `yaml:"entries"`
	}
	d := decode(b, filepath.Dir(abs), &file)
	for i, e := range file.Entries {
		field := fmt.Sprintf("entries[%d]", i)
		e.check(d, field, td)
		lines = append(lines, d.lines[field])
	}
	if len(d.found) > 0 {
		return nil, nil, d.mistakes(abs)
	}
	return file.Entries, lines, nil
}

func read(path string) (b []byte, abs string, err error) {
	if abs, err = filepath.Abs(path); err != nil {
		return nil, "", err
	}
	if b, err = os.ReadFile(abs); err != nil {
		return nil, "", fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	return b, abs, nil
}

// check completes defaults and adds what is wrong between and within fields.
func (c *Config) check(d *decoder) {
	if c.Node.IsZero() {
		d.required("node", "spiffe://<trust domain>/node/<name>")
	} else if _, err := identity.ParseNode(c.Node); err != nil {
		d.miss("node", c.Node.String(), "spiffe://<trust domain>/node/<name> or spiffe://<trust domain>/zone/<zone>/node/<name>")
	}
	if c.State == "" {
		d.required("state", "a folder")
	}
	if c.Dev && !strings.HasSuffix(c.Node.TrustDomain().Name(), DevSuffix) {
		d.miss("dev", "true", "false, or a trust domain that ends in "+DevSuffix)
	}
	c.checkTPM(d)
	c.checkTrail(d)
	c.Attest.Interval = orDefault(c.Attest.Interval, defaultInterval)
	if len(c.Trust.GlobalKeys) == 0 {
		d.required("trust.global_keys", "PEM files of the global authority's public keys")
	}
	if len(c.Trust.Records) == 0 {
		d.required("trust.records", "signed trust records, the own region's among them")
	}
	c.Trust.Threshold = orDefault(c.Trust.Threshold, 1)
	if most := max(len(c.Trust.GlobalKeys), 1); c.Trust.Threshold < 1 || c.Trust.Threshold > most {
		d.miss("trust.threshold", fmt.Sprint(c.Trust.Threshold), fmt.Sprintf("1 to %d, the number of global keys", most))
	}
	if len(c.Enrol.Issuers) == 0 {
		d.required("enrol.issuers", "host:port of the region's issuers")
	}
	for i, a := range c.Enrol.Issuers {
		if _, port, err := net.SplitHostPort(a); err != nil || port == "" {
			d.miss(fmt.Sprintf("enrol.issuers[%d]", i), a, "host:port")
		}
	}
	if !c.Mesh.Listen.IsValid() {
		d.required("mesh.listen", "address:port, for UDP")
	}
	if !c.Mesh.Advertise.IsValid() {
		c.Mesh.Advertise = c.Mesh.Listen
	}
	if c.Mesh.Advertise.IsValid() && c.Mesh.Advertise.Addr().IsUnspecified() {
		d.miss("mesh.advertise", c.Mesh.Advertise.String(), "an address peers can reach, since mesh.listen takes any")
	}
	c.checkLinks(d)
	if c.Policy.Global == "" {
		d.required("policy.global", "the global authority's signed policy")
	}
	if c.Policy.Region == "" {
		d.required("policy.region", "the region's signed policy")
	}
	c.checkDecisions(d)
	c.checkNeighbours(d)
	c.checkRoles(d)
	c.checkServices(d)
	run := filepath.Join(string(c.State), "run")
	c.WorkloadAPI.Socket = orDefault(c.WorkloadAPI.Socket, Path(filepath.Join(run, "workload.sock")))
	c.Control.Socket = orDefault(c.Control.Socket, Path(filepath.Join(run, "control.sock")))
	d.socket("workload_api.socket", c.WorkloadAPI.Socket)
	d.socket("control.socket", c.Control.Socket)
	c.Log.Level = orDefault(c.Log.Level, "info")
	c.Log.Format = orDefault(c.Log.Format, "text")
}

func (c *Config) checkTPM(d *decoder) {
	c.TPM.Mode = orDefault(c.TPM.Mode, "auto")
	c.TPM.NodeKey = orDefault(c.TPM.NodeKey, Resident)
	c.TPM.Device = orDefault(c.TPM.Device, DefaultDevice)
	c.TPM.BootLog = orDefault(c.TPM.BootLog, DefaultBootLog)
	if !strings.HasPrefix(c.TPM.Device, "/") && !strings.HasPrefix(c.TPM.Device, "unix:") && !strings.HasPrefix(c.TPM.Device, "tcp:") {
		d.miss("tpm.device", c.TPM.Device, "/dev/tpmrm0, unix:/path or tcp:host:port")
	}
	c.checkMethods(d)
}

// checkMethods checks what the node attests by.
func (c *Config) checkMethods(d *decoder) {
	e := c.Enrol
	if c.TPM.Mode == "off" && !e.WithoutTPM() {
		d.required("enrol.token_file", "a join token or enrol.x509pop, since tpm.mode is off")
	}
	if e.TokenFile != "" && e.X509PoP != nil {
		d.miss("enrol.x509pop", "", "only one of token_file and x509pop: a node without a TPM attests by one of them")
	}
	if e.X509PoP != nil {
		e.X509PoP.check(d, "enrol.x509pop")
	}
	if e.DevID != "" && c.TPM.Mode == "off" {
		d.miss("enrol.devid", string(e.DevID), "no DevID: its key is in the TPM, and tpm.mode is off")
	}
	if e.DevID != "" && c.TPM.NodeKey == InMemory {
		d.miss("tpm.node_key", string(InMemory), "resident with enrol.devid: a DevID vouches only for keys in its TPM")
	}
}

func (c *Config) checkRoles(d *decoder) {
	if c.Issuer != nil {
		c.checkIssuer(d)
	}
	if a := c.Authority; a != nil {
		if a.Keys == "" {
			d.required("authority.keys", "the folder of the authority's key")
		}
		a.Lease = orDefault(a.Lease, 24*time.Hour)
		a.Degraded = orDefault(a.Degraded, "deny-new")
		for i, id := range a.Issuers {
			if _, err := identity.ParseNode(id); err != nil || id.TrustDomain() != c.Node.TrustDomain() || id == c.Node {
				d.miss(fmt.Sprintf("authority.issuers[%d]", i), id.String(), "another node of this region")
			}
		}
		for i, s := range a.Services {
			field := fmt.Sprintf("authority.services[%d]", i)
			d.label(field+".name", s.Name)
			if len(s.Workloads) == 0 {
				d.required(field+".workloads", "the SPIFFE IDs that may answer")
			}
		}
	}
}

func (c *Config) checkServices(d *decoder) {
	for i, s := range c.Services {
		field := fmt.Sprintf("services[%d]", i)
		d.label(field+".name", s.Name)
		if s.Workload.IsZero() {
			d.required(field+".workload", "the SPIFFE ID of the process that serves")
		} else if s.Workload.TrustDomain() != c.Node.TrustDomain() {
			d.miss(field+".workload", s.Workload.String(), "an ID of this node's trust domain")
		}
		if !s.Target.IsValid() || !s.Target.Addr().IsLoopback() {
			d.miss(field+".target", s.Target.String(), "a loopback address:port")
		}
	}
	for i, l := range c.Listeners {
		field := fmt.Sprintf("listeners[%d]", i)
		if !l.Listen.IsValid() || !l.Listen.Addr().IsLoopback() {
			d.miss(field+".listen", l.Listen.String(), "a loopback address:port: only local processes can be attributed")
		}
		d.fullService(field+".service", l.Service)
	}
}

// required is for a field that is not set. One that could not be read was set,
// and its mistake is told already.
func (d *decoder) required(field, want string) {
	for _, m := range d.found {
		if m.Field == field || strings.HasPrefix(field, m.Field+".") {
			return
		}
	}
	d.miss(field, "", "required: "+want)
}

func (d *decoder) socket(field string, p Path) {
	if len(p) > maxSocketPath {
		d.miss(field, string(p), fmt.Sprintf("a path of at most %d bytes: Linux allows no longer for a socket", maxSocketPath))
	}
}

func (d *decoder) fullService(field, s string) {
	parts := strings.Split(s, ".")
	if len(parts) != 3 || parts[2] != "mesh" || !label.MatchString(parts[0]) || !label.MatchString(parts[1]) {
		d.miss(field, s, "<service>.<region>.mesh")
	}
}

func (d *decoder) label(field, s string) {
	if !label.MatchString(s) {
		d.miss(field, s, "a DNS label: a-z, 0-9 and -, at most 63")
	}
}

func orDefault[T comparable](v, byDefault T) T {
	var zero T
	if v == zero {
		return byDefault
	}
	return v
}
