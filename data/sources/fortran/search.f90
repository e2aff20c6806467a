program search
  implicit none
  integer :: table(5) = [2, 3, 5, 7, 11]
  integer :: i, wanted
  logical :: found

  wanted = 7
  found = .false.
  do i = 1, 5
    if (table(i) == wanted) then
      found = .true.
      exit
    end if
  end do
  select case (wanted)
  case (1)
    print *, "one"
  case default
    print *, found, i
  end select
end program search
