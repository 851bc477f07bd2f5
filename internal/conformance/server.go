// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

// Server gives cases what they fetch: files and Git repositories over HTTP
// on 127.0.0.1, and an ssh agent without keys.
type Server struct {
	Agent string // the agent's socket

	web   net.Listener
	agent net.Listener
	git   string // git's program for serving

	mu   sync.Mutex
	dirs map[string]string
}

// Serve starts a server. Its socket is made in dir. [Server.Close] ends it.
func Serve(dir string) (*Server, error) {
	s := &Server{Agent: filepath.Join(dir, "agent.sock"), dirs: map[string]string{}}
	var err error
	if s.web, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	if s.agent, err = net.Listen("unix", s.Agent); err != nil {
		return nil, errors.Join(err, s.web.Close())
	}
	if out, err := exec.Command("git", "--exec-path").Output(); err == nil {
		s.git = filepath.Join(strings.TrimSpace(string(out)), "git-http-backend")
	}
	web := &http.Server{Handler: s}
	go func() { _ = web.Serve(s.web) }()
	go s.serveAgent()
	return s, nil
}

// Close ends the server.
func (s *Server) Close() error { return errors.Join(s.web.Close(), s.agent.Close()) }

// Add serves dir/http and, below git/, the repositories of dir/git, and
// returns the address.
func (s *Server) Add(name, dir string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dirs[name] = dir
	return fmt.Sprintf("http://%s/%s", s.web.Addr(), name)
}

// ServeHTTP answers for the case that the path begins with. The query
// filename=NAME has the answer name its file.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	s.mu.Lock()
	dir, ok := s.dirs[name]
	s.mu.Unlock()
	if !ok {
		http.NotFound(w, r)
		return
	}
	if strings.HasPrefix(rest, "git/") {
		(&cgi.Handler{
			Path: s.git, Root: "/" + name + "/git", Dir: dir,
			Env: []string{"GIT_PROJECT_ROOT=" + filepath.Join(dir, "git"), "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_GLOBAL=/dev/null",
				"GIT_CONFIG_COUNT=3", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*",
				"GIT_CONFIG_KEY_1=uploadpack.allowAnySHA1InWant", "GIT_CONFIG_VALUE_1=true",
				"GIT_CONFIG_KEY_2=uploadpack.allowFilter", "GIT_CONFIG_VALUE_2=true"},
			Stderr: io.Discard,
		}).ServeHTTP(w, r)
		return
	}
	if as := r.URL.Query().Get("filename"); as != "" {
		w.Header().Set("Content-Disposition", fmt.Sprintf("attachment; filename=%q", as))
	}
	file := filepath.Join(dir, "http", filepath.FromSlash(filepath.Clean("/"+rest)))
	f, err := os.Open(file)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, info.Name(), info.ModTime(), f)
}

// serveAgent answers every request of the agent's protocol with no keys.
func (s *Server) serveAgent() {
	for {
		conn, err := s.agent.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close() //nolint:errcheck // nothing is to be written any more
			for {
				var size uint32
				if binary.Read(conn, binary.BigEndian, &size) != nil {
					return
				}
				if _, err := io.CopyN(io.Discard, conn, int64(size)); err != nil {
					return
				}
				const identities = 12
				if _, err := conn.Write([]byte{0, 0, 0, 5, identities, 0, 0, 0, 0}); err != nil {
					return
				}
			}
		}()
	}
}
