// SPDX-License-Identifier: Apache-2.0

package remotecache

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"builder/image"
)

// The digests that BuildKit gives to steps are those of JSON documents that
// say what a step does: here are as many of them as a Dockerfile can say that
// is common. The documents, and what is left out of them, are those of
// BuildKit's solver (solver/llbsolver/ops).

// ImageKeys are the digests of the records for an image: by what its name
// stands for, and by what its layers make.
func ImageKeys(img image.Image, platform image.Platform) (keys []digest.Digest, err error) {
	source := func(key digest.Digest) {
		keys = append(keys, output(digest.FromString("buildkit.source.v0:"+key.String()), 0))
	}
	if ids := img.ChainIDs(); len(ids) > 0 {
		source(ids[len(ids)-1])
	}
	if img.Root == "" {
		return keys, nil
	}
	data, err := json.Marshal(struct {
		Digest     digest.Digest
		OS         string
		Arch       string
		Variant    string   `json:",omitempty"`
		OSVersion  string   `json:",omitempty"`
		OSFeatures []string `json:",omitempty"`
	}{img.Root, platform.OS, platform.Architecture, platform.Variant, platform.OSVersion, platform.OSFeatures})
	source(digest.FromBytes(data))
	return keys, err
}

// ContentKey is the digest of the record for files that have a digest.
func ContentKey(content digest.Digest) digest.Digest { return output(content, -1) }

// output is the digest of the record for one result of a step.
func output(step digest.Digest, number int) digest.Digest {
	return digest.FromString(fmt.Sprintf("%s@%d", step, number))
}

// Selector is the selector of the paths of an input that a process sees.
func Selector(paths ...string) string {
	return digest.FromString(strings.Join(paths, "\x00")).String()
}

// CopySelector is that of the paths that are copied of an input.
func CopySelector(paths ...string) string {
	sorted := slices.Clone(paths)
	slices.Sort(sorted)
	slices.Reverse(sorted)
	return Selector(sorted...)
}

// MergeKey is the digest of the record for a COPY --link: of what is copied on
// what is below.
func MergeKey() (digest.Digest, error) {
	type input struct {
		Input int `json:"input,omitempty"`
	}
	var doc struct {
		Type  string
		Merge struct {
			Inputs []input `json:"inputs,omitempty"`
		}
	}
	doc.Type = "buildkit.merge.v0"
	doc.Merge.Inputs = []input{{0}, {1}}
	return documentKey(doc)
}

// Run is a process as BuildKit's documents have it.
type Run struct {
	Args     []string
	Env      []string
	Dir      string
	User     string
	Hostname string
	Hosts    []string // names of --add-host
	Ulimits  []RunUlimit
	NoNet    bool        // --network=none
	Insecure bool        // --security=insecure
	Mounts   []RunMount  // sorted by target
	Secrets  []RunSecret // in their order, those of agents last
	Platform image.Platform
}

// RunUlimit is a limit.
type RunUlimit struct {
	Name string
	Soft int64 `json:",omitempty"`
	Hard int64 `json:",omitempty"`
}

// RunMount is what a process sees of a stage, of the build context, of a cache,
// or a file system in memory.
type RunMount struct {
	Target   string
	ReadOnly bool
	Input    int    // which input is seen; 0 for none
	Cache    bool   // it is a cache
	ID       string // of a cache, namespace first
	Sharing  string // of a cache: shared, private or locked
	Size     int64  // of a file system in memory
}

// RunSecret is a secret, or an agent, that a process may use.
type RunSecret struct {
	Agent    bool
	ID       string
	Target   string // "" for none
	Env      string // "" for none
	UID, GID int
	Mode     uint32
	Optional bool
}

// RunKey is the digest of the record for a RUN.
func RunKey(r Run) (digest.Digest, error) {
	type host struct{ Host string }
	var doc struct {
		Type string
		Exec struct {
			Meta struct {
				Args                      []string    `json:"args,omitempty"`
				Env                       []string    `json:"env,omitempty"`
				Cwd                       string      `json:"cwd,omitempty"`
				User                      string      `json:"user,omitempty"`
				ExtraHosts                []host      `json:"extraHosts,omitempty"`
				Hostname                  string      `json:"hostname,omitempty"`
				Ulimit                    []RunUlimit `json:"ulimit,omitempty"`
				RemoveMountStubsRecursive bool        `json:"removeMountStubsRecursive,omitempty"`
			} `json:"meta"`
			Mounts   []mountDoc `json:"mounts,omitempty"`
			Network  int        `json:"network,omitempty"`
			Security int        `json:"security,omitempty"`
			Secrets  []envDoc   `json:"secretenv,omitempty"`
		}
		OS         string
		Arch       string
		Variant    string   `json:",omitempty"`
		OSVersion  string   `json:",omitempty"`
		OSFeatures []string `json:",omitempty"`
	}
	doc.Type = "buildkit.exec.v0"
	meta := &doc.Exec.Meta
	meta.Args, meta.Env, meta.Cwd, meta.User, meta.Hostname = r.Args, r.Env, r.Dir, r.User, r.Hostname
	meta.Ulimit, meta.RemoveMountStubsRecursive = r.Ulimits, true
	for _, name := range r.Hosts {
		meta.ExtraHosts = append(meta.ExtraHosts, host{name})
	}
	if r.NoNet {
		doc.Exec.Network = 2
	}
	if r.Insecure {
		doc.Exec.Security = 1
	}
	doc.Exec.Mounts, doc.Exec.Secrets = mountDocs(r)
	doc.OS, doc.Arch, doc.Variant = r.Platform.OS, r.Platform.Architecture, r.Platform.Variant
	doc.OSVersion, doc.OSFeatures = r.Platform.OSVersion, r.Platform.OSFeatures
	return documentKey(doc)
}

// mountDoc is a mount in a document.
type mountDoc struct {
	Input     int        `json:"input,omitempty"`
	Dest      string     `json:"dest,omitempty"`
	Output    int        `json:"output,omitempty"`
	ReadOnly  bool       `json:"readonly,omitempty"`
	Type      int        `json:"mountType,omitempty"`
	TmpfsOpt  *tmpfsDoc  `json:"TmpfsOpt,omitempty"`
	CacheOpt  *cacheDoc  `json:"cacheOpt,omitempty"`
	SecretOpt *secretDoc `json:"secretOpt,omitempty"`
	SSHOpt    *secretDoc `json:"SSHOpt,omitempty"`
}

type tmpfsDoc struct {
	Size int64 `json:"size,omitempty"`
}

type cacheDoc struct {
	ID      string `json:"ID,omitempty"`
	Sharing int    `json:"sharing,omitempty"`
}

type secretDoc struct {
	ID       string `json:"ID,omitempty"`
	UID      int    `json:"uid,omitempty"`
	GID      int    `json:"gid,omitempty"`
	Mode     uint32 `json:"mode,omitempty"`
	Optional bool   `json:"optional,omitempty"`
}

type envDoc struct {
	ID       string `json:"ID,omitempty"`
	Name     string `json:"name,omitempty"`
	Optional bool   `json:"optional,omitempty"`
}

// Types of mounts; 0 shows files.
const (
	secretMount = 1
	sshMount    = 2
	cacheMount  = 3
	tmpfsMount  = 4
)

// mountDocs are the mounts of a process, its root first, and the secrets in its
// environment. A process that has a root alone has no mounts in its document.
func mountDocs(r Run) (docs []mountDoc, env []envDoc) {
	docs = []mountDoc{{Dest: "/"}}
	for _, m := range r.Mounts {
		doc := mountDoc{Input: -1, Output: -1, Dest: m.Target, ReadOnly: m.ReadOnly}
		switch {
		case m.Input > 0:
			doc.Input = m.Input
		case m.Cache:
			doc.Type, doc.CacheOpt = cacheMount, &cacheDoc{}
			// Which cache it is counts only for the one that is named by its target.
			if _, id, _ := strings.Cut(m.ID, "/"); id == m.Target && m.Sharing == "shared" {
				doc.CacheOpt.ID = m.ID
			}
		default:
			doc.Type, doc.TmpfsOpt = tmpfsMount, &tmpfsDoc{m.Size}
		}
		docs = append(docs, doc)
	}
	for _, s := range r.Secrets {
		if s.Env != "" {
			env = append(env, envDoc{s.ID, s.Env, s.Optional})
		}
		if s.Target == "" {
			continue
		}
		doc := mountDoc{Input: -1, Dest: s.Target, Type: secretMount}
		opt := &secretDoc{s.ID, s.UID, s.GID, s.Mode, s.Optional}
		if doc.SecretOpt = opt; s.Agent {
			doc.Type, doc.SecretOpt, doc.SSHOpt = sshMount, nil, opt
		}
		docs = append(docs, doc)
	}
	if len(docs) == 1 {
		docs = nil
	}
	return docs, env
}

// Owner is whose files a step makes: numbers, as it was written.
type Owner struct {
	UID uint32
	GID *uint32 // nil if it was not said
}

type ownerDoc struct {
	User  *userDoc `json:"user,omitempty"`
	Group *userDoc `json:"group,omitempty"`
}

type userDoc struct {
	User struct {
		ByID uint32 `json:"byId,omitempty"`
	}
}

func newOwnerDoc(o *Owner) *ownerDoc {
	if o == nil {
		return nil
	}
	doc := &ownerDoc{User: &userDoc{}}
	doc.User.User.ByID = o.UID
	if o.GID != nil {
		doc.Group = &userDoc{}
		doc.Group.User.ByID = *o.GID
	}
	return doc
}

// DirKey is the digest of the record for a WORKDIR. timestamp is of
// SOURCE_DATE_EPOCH in nanoseconds, -1 for none.
func DirKey(dir string, owner *Owner, timestamp int64) (digest.Digest, error) {
	action, err := json.Marshal(struct {
		Path        string    `json:"path,omitempty"`
		Mode        int32     `json:"mode,omitempty"`
		MakeParents bool      `json:"makeParents,omitempty"`
		Owner       *ownerDoc `json:"owner,omitempty"`
		Timestamp   int64     `json:"timestamp,omitempty"`
	}{dir, 0o755, true, newOwnerDoc(owner), timestamp})
	if err != nil {
		return "", err
	}
	return filesKey([][]byte{action}, nil)
}

// Copy is a COPY or ADD of local files as BuildKit's documents have it.
type Copy struct {
	Sources []string // absolute
	Dest    string   // absolute; a slash at the end counts
	Owner   *Owner
	Mode    int32  // -1 for none
	ModeStr string // symbolic
	Unpack  bool
	Scratch bool // there is nothing below
}

// CopyKey is the digest of the record for a COPY.
func CopyKey(c Copy) (digest.Digest, error) {
	var actions [][]byte
	var indexes [][]int
	first, second := 0, 1
	if c.Scratch {
		first, second = -1, 0
	}
	for i, src := range c.Sources {
		action, err := json.Marshal(struct {
			Src                string    `json:"src,omitempty"`
			Dest               string    `json:"dest,omitempty"`
			Owner              *ownerDoc `json:"owner,omitempty"`
			Mode               int32     `json:"mode,omitempty"`
			FollowSymlink      bool      `json:"followSymlink,omitempty"`
			DirCopyContents    bool      `json:"dirCopyContents,omitempty"`
			Unpack             bool      `json:"attemptUnpackDockerCompatibility,omitempty"`
			CreateDestPath     bool      `json:"createDestPath,omitempty"`
			AllowWildcard      bool      `json:"allowWildcard,omitempty"`
			AllowEmptyWildcard bool      `json:"allowEmptyWildcard,omitempty"`
			Timestamp          int64     `json:"timestamp,omitempty"`
			ModeStr            string    `json:"modeStr,omitempty"`
		}{path.Base(src), c.Dest, newOwnerDoc(c.Owner), c.Mode, true, true, c.Unpack, true, true, true, -1, c.ModeStr})
		if err != nil {
			return "", err
		}
		in, out := first, -1
		if i > 0 {
			in = second + i
		}
		if i == len(c.Sources)-1 {
			out = 0
		}
		actions, indexes = append(actions, action), append(indexes, []int{in, second, out})
	}
	return filesKey(actions, indexes)
}

// filesKey is the digest of the record for actions on files. The indexes say
// which of inputs and results each is about; they are left out where they are
// the usual ones.
func filesKey(actions [][]byte, indexes [][]int) (digest.Digest, error) {
	usual := indexes == nil || indexes[0][0] == 0
	for i, ix := range indexes {
		usual = usual && (i == 0 || ix[0] == len(indexes)+i-1) && ix[1] == 1
	}
	if usual {
		indexes = nil
	}
	return documentKey(struct {
		Type    string
		Actions [][]byte
		Indexes [][]int `json:"indexes,omitempty"`
	}{"buildkit.file.v0", actions, indexes})
}

func documentKey(doc any) (digest.Digest, error) {
	data, err := json.Marshal(doc)
	if err != nil {
		return "", err
	}
	return output(digest.FromBytes(bytes.TrimSpace(data)), 0), nil
}
