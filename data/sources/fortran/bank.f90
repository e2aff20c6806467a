module bank
  implicit none
  type :: account
    character(len=20) :: owner
    real :: balance = 0.0
  end type account
contains
  subroutine deposit(target, amount)
    type(account), intent(inout) :: target
    real, intent(in) :: amount
    if (amount > 0.0) then
      target%balance = target%balance + amount
    else
      print *, "refused"
    end if
  end subroutine deposit
end module bank
