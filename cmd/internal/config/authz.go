package config

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// ExtAuthz is a listener for Envoy. Whoever asks about other identities than its own
// needs policy's leave: kind admin, call AskForOthers of api ext_authz; as shipped root
// and the node's user have it. Set failure_mode_allow to false in Envoy (its default).
type ExtAuthz struct {
	// Listen is unix:/path, or a loopback address:port. Required.
	Listen Endpoint `yaml:"listen"`

	// Group is a group whose members may connect to the unix socket, beside root and
	// the node's user: a name or a number. Default: none.
	Group string `yaml:"group"`

	// Service is the full name <service>.<region>.mesh of what is behind the proxy, for
	// routes whose context extensions have no "service". Default: every route must.
	Service string `yaml:"service"`

	// Headers are the names, in lower case, of the request headers that policy sees.
	// x-forwarded-client-cert cannot be one: any client can send it. Default: none.
	Headers []string `yaml:"headers"`
}

// AuthZEN is a listener for programs that speak the Authorization API 1.0. Who may ask
// about others: as for ExtAuthz, with api authzen.
type AuthZEN struct {
	// Listen, Group and Headers are as for ExtAuthz; headers come in the request's
	// context.headers.
	Listen  Endpoint `yaml:"listen"`
	Group   string   `yaml:"group"`
	Headers []string `yaml:"headers"`
}

// ForwardedCert is the header in which proxies tell of a client's certificate, and which
// any client can send. Policy never sees it.
const ForwardedCert = "x-forwarded-client-cert"

var headerName = regexp.MustCompile("^[a-z0-9!#$%&'*+.^_|~-]{1,128}$")

// Endpoint is where a local listener is: unix:/path, or a loopback address:port.
type Endpoint string

// UnmarshalText reads an endpoint.
func (e *Endpoint) UnmarshalText(b []byte) error {
	*e = Endpoint(b)
	if path, ok := strings.CutPrefix(string(b), "unix:"); ok && filepath.IsAbs(path) && len(path) <= maxSocketPath {
		return nil
	}
	if addr, err := netip.ParseAddrPort(string(b)); err == nil && addr.Addr().IsLoopback() && addr.Port() != 0 {
		return nil
	}
	return fmt.Errorf("want unix:/path of at most %d bytes, or a loopback address:port", maxSocketPath)
}

// Path is that of a unix socket, or empty.
func (e Endpoint) Path() string {
	path, ok := strings.CutPrefix(string(e), "unix:")
	if !ok {
		return ""
	}
	return path
}

// Port is a loopback address, where Path is empty.
func (e Endpoint) Port() netip.AddrPort {
	addr, _ := netip.ParseAddrPort(string(e)) // was read before
	return addr
}

func (c *Config) checkNeighbours(d *decoder) {
	check := func(field string, e Endpoint, group string, headers []string) {
		if e == "" {
			d.required(field+".listen", "unix:/path, or a loopback address:port")
		}
		if group != "" && e != "" && e.Path() == "" {
			d.miss(field+".group", group, "no group with a port: any program of the machine can connect to it")
		}
		for i, name := range headers {
			at := fmt.Sprintf("%s.headers[%d]", field, i)
			switch {
			case !headerName.MatchString(name):
				d.miss(at, name, "a header's name in lower case")
			case name == ForwardedCert:
				d.miss(at, name, "another header: any client can send this one, and the subject is the certificate that the proxy verified")
			case slices.Contains(headers[:i], name):
				d.miss(at, name, "each name once")
			}
		}
	}
	if p := c.Policy.ExtAuthz; p != nil {
		check("policy.ext_authz", p.Listen, p.Group, p.Headers)
		if p.Service != "" {
			d.fullService("policy.ext_authz.service", p.Service)
		}
	}
	if p := c.Policy.AuthZEN; p != nil {
		check("policy.authzen", p.Listen, p.Group, p.Headers)
	}
}
